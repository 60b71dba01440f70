"""Networks of torchvision and timm, divided into named stages."""
