"""What the OCI specifications define, as frozen values. Sources: OCI image-spec 1.1, distribution-spec 1.1."""
