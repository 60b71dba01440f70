"""The report of one run, `report.html`."""
