"""Programs as files of other formats."""
