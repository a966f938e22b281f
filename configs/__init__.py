"""The configuration groups, one folder each, one small file per choice; config.yaml is the root."""
