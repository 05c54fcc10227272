"""Where kernels run: one file for each kind of device."""
