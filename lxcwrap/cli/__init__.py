"""The command line, ``python -m lxcwrap`` or ``lxcwrap``: a thin layer over what `lxcwrap` exports."""
