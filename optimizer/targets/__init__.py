"""Data sheets of devices as JSON by family, how they are read and checked, and profiles measured on this machine."""
