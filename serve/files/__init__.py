"""``/v1/files``: bytes in an object store, what is known of them in the control plane. See docs/files.md."""
