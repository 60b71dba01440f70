"""The rows of docs/results.md, in the order of the page."""

from functools import partial

from benchmarks.reproduce.rows import Figure, Row

FEW, TUNED = "Cats and dogs, 468 training images", "Cats and dogs, fine-tuned"

_mnist = partial(Row, group="MNIST", data="mnist", seeds=5)
_cifar10 = partial(Row, group="CIFAR-10", data="cifar10")
_scratch = partial(Row, group="Cats and dogs from scratch", data="cats_vs_dogs", gap=True)
_few = partial(Row, group=FEW, data="cats_vs_dogs")
_tuned = partial(Row, group=TUNED, data="cats_vs_dogs")

STRIDED = Figure("97.2 %", 0.9715, 0.9725)
EXERCISE = Figure("over 70 %", 0.70, 1.0)
STRIDED_468 = Figure("56.6 %", 0.5655, 0.5665, images=18_728)
RESNET_468 = Figure("81.0 %", 0.8095, 0.8105, images=18_728)
HEAD_ONLY = Figure("94 %", 0.935, 0.945, images="unknown")
PARTIAL = Figure("96-97 %", 0.955, 0.975, images="unknown")

LITE0 = "cats_vs_dogs_efficientnet_lite0"
LITE0_HEAD = f"{LITE0}_feature_extract"

MNIST_ROWS = (
    _mnist("mnist_mlp", "dense network", figure=Figure("97.8 %", 0.9775, 0.9785), in_readme=True),
    _mnist(
        "mnist_cnn_flatten",
        "convolutions, flattened",
        figure=Figure("99 %", 0.985, 0.995),
        against=("mnist_mlp",),
        in_readme=True,
    ),
    _mnist(
        "mnist_cnn_gap",
        "convolutions, global average pooling",
        figure=Figure("99 %", 0.985, 0.995),
        against=("mnist_cnn_flatten",),
    ),
    _mnist("mnist_sgd_mlp", "dense network, SGD", figure=Figure("95.2 %", 0.9515, 0.9525)),
    _mnist("mnist_strided_cnn", "strided network, SGD", figure=STRIDED, against=("mnist_sgd_mlp",), in_readme=True),
    _mnist(
        "mnist_strided_cnn_train_mode",
        "the same, evaluated in train mode",
        experiment="mistakes/mnist_strided_cnn_train_mode",
        figure=STRIDED,
        against=("mnist_strided_cnn",),
    ),
    _mnist("mnist_lenet5", "LeNet-5"),
    _mnist("mnist_lenet_relu", "LeNet-5 with ReLU and max-pooling", against=("mnist_lenet5",)),
)
CIFAR10_ROWS = (
    _cifar10("cifar10_cnn_plain", "two blocks", figure=EXERCISE),
    _cifar10(
        "cifar10_cnn_batchnorm",
        "two blocks with BatchNorm",
        figure=EXERCISE,
        against=("cifar10_cnn_plain",),
        in_readme=True,
    ),
    _cifar10("cifar10_cnn_deep", "three double blocks", against=("cifar10_cnn_batchnorm",)),
    _cifar10("cifar10_mini_resnet", "six residual blocks", against=("cifar10_cnn_deep",)),
    _cifar10(
        "cifar10_resnet18_full",
        "ResNet18, ImageNet weights",
        against=("cifar10_resnet18_scratch",),
        downloads=True,
        counterpart="cifar10_efficientnet_lite0_full",
    ),
    _cifar10(
        "cifar10_resnet18_scratch",
        "ResNet18 from scratch",
        experiment="cifar10_resnet18_full",
        overrides=("model.weights=none", "model.backbone_lr_factor=1"),
    ),
    _cifar10(
        "cifar10_efficientnet_lite0_full",
        "EfficientNet-Lite0, ImageNet weights",
        experiment="cifar10_resnet18_full",
        overrides=("model=efficientnet_lite0_full",),
        against=("cifar10_resnet18_scratch",),
    ),
)
SCRATCH_ROWS = (
    _scratch("cats_vs_dogs_cnn", "four blocks"),
    _scratch(
        "cats_vs_dogs_cnn_augmented",
        "four blocks, augmentation, dropout, weight decay",
        figure=Figure("85 %", 0.845, 0.855, images="unknown"),
        against=("cats_vs_dogs_cnn",),
        in_readme=True,
    ),
    _scratch("cats_vs_dogs_strided", "eight strided convolutions, SGD"),
)
FEW_ROWS = (
    _few("cats_vs_dogs_strided_468", "strided network", figure=STRIDED_468, seeds=5),
    _few(
        "cats_vs_dogs_strided_468_train_mode",
        "the same, evaluated in train mode",
        experiment="mistakes/cats_vs_dogs_strided_468_train_mode",
        figure=STRIDED_468,
        seeds=5,
        against=("cats_vs_dogs_strided_468",),
    ),
    _few(
        "cats_vs_dogs_resnet18_468",
        "ResNet18, ImageNet weights",
        figure=RESNET_468,
        downloads=True,
        counterpart=f"{LITE0}_468",
    ),
    _few(
        "cats_vs_dogs_resnet18_opsin_468",
        "ResNet18, weights of Opsin",
        experiment="cats_vs_dogs_resnet18_468",
        overrides=("model.weights=opsin",),
        figure=RESNET_468,
        against=("cats_vs_dogs_strided_468",),
    ),
    _few(
        f"{LITE0}_468",
        "EfficientNet-Lite0, ImageNet weights",
        figure=RESNET_468,
        against=("cats_vs_dogs_resnet18_opsin_468",),
    ),
    _few(
        "cats_vs_dogs_efficientnet_lite2_468",
        "EfficientNet-Lite2, ImageNet weights",
        experiment=f"{LITE0}_468",
        overrides=("model=efficientnet_lite2_feature_extract",),
        figure=RESNET_468,
        against=(f"{LITE0}_468",),
    ),
)
TUNED_ROWS = (
    _tuned(
        "cats_vs_dogs_resnet18_feature_extract",
        "ResNet18, head only",
        figure=HEAD_ONLY,
        downloads=True,
        counterpart=LITE0_HEAD,
    ),
    _tuned(
        "cats_vs_dogs_resnet18_opsin_feature_extract",
        "ResNet18, weights of Opsin, head only",
        experiment="cats_vs_dogs_resnet18_feature_extract",
        overrides=("model.weights=opsin", "datamodule.image_size=96"),
        figure=HEAD_ONLY,
    ),
    _tuned(
        LITE0_HEAD,
        "EfficientNet-Lite0, head only",
        figure=HEAD_ONLY,
        against=("cats_vs_dogs_resnet18_opsin_feature_extract",),
        in_readme=True,
    ),
    _tuned(
        "cats_vs_dogs_efficientnet_lite2_feature_extract",
        "EfficientNet-Lite2, head only",
        experiment=LITE0_HEAD,
        overrides=("model=efficientnet_lite2_feature_extract",),
        figure=HEAD_ONLY,
        against=(LITE0_HEAD,),
    ),
    _tuned(
        "cats_vs_dogs_resnet18_partial",
        "ResNet18, last stage and head",
        figure=PARTIAL,
        downloads=True,
        counterpart=f"{LITE0}_partial",
    ),
    _tuned(
        f"{LITE0}_partial",
        "EfficientNet-Lite0, last stages and head",
        figure=PARTIAL,
        against=(LITE0_HEAD,),
        gap=True,
    ),
    _tuned("cats_vs_dogs_resnet18_full", "ResNet18, everything", downloads=True, counterpart=f"{LITE0}_full"),
    _tuned(f"{LITE0}_full", "EfficientNet-Lite0, everything", against=(f"{LITE0}_partial",), gap=True),
    _tuned("cats_vs_dogs_resnet50_feature_extract", "ResNet50, head only", downloads=True, counterpart=LITE0_HEAD),
    _tuned(
        "cats_vs_dogs_resnet50_two_rates",
        "ResNet50, two learning rates",
        downloads=True,
        counterpart=f"{LITE0}_two_rates",
    ),
    _tuned(f"{LITE0}_two_rates", "EfficientNet-Lite0, two learning rates", against=(LITE0_HEAD,)),
    _tuned(
        "cats_vs_dogs_vgg16_partial",
        "VGG16, last block and dense head",
        downloads=True,
        counterpart=f"{LITE0}_partial",
    ),
    _tuned(
        "cats_vs_dogs_vgg16_last_three_blocks",
        "VGG16, last three blocks and dense head",
        experiment="cats_vs_dogs_vgg16_partial",
        overrides=("model.trainable=last:3",),
        against=("cats_vs_dogs_vgg16_partial",),
        downloads=True,
        counterpart=f"{LITE0}_partial",
    ),
    _tuned(
        "cats_vs_dogs_mobilenet_v2_feature_extract",
        "MobileNetV2, dense head",
        downloads=True,
        counterpart=f"{LITE0}_dense_head",
    ),
    _tuned(
        f"{LITE0}_dense_head",
        "EfficientNet-Lite0, dense head",
        experiment=LITE0_HEAD,
        overrides=("model.head=dense",),
        against=(LITE0_HEAD,),
    ),
    _tuned(
        "cats_vs_dogs_resnet50_two_phase",
        "ResNet50, two phases",
        downloads=True,
        counterpart=f"{LITE0}_two_phase",
    ),
    _tuned(f"{LITE0}_two_phase", "EfficientNet-Lite0, two phases", against=(LITE0_HEAD,)),
    _tuned(
        "cats_vs_dogs_efficientnet_b0_pipeline",
        "EfficientNet-B0, augmentation and dense head",
        downloads=True,
        counterpart=f"{LITE0}_pipeline",
    ),
    _tuned(
        f"{LITE0}_pipeline",
        "EfficientNet-Lite0, augmentation and dense head",
        against=(f"{LITE0}_dense_head",),
    ),
)
RESULTS: tuple[Row, ...] = (*MNIST_ROWS, *CIFAR10_ROWS, *SCRATCH_ROWS, *FEW_ROWS, *TUNED_ROWS)
