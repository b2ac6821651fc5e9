"""The one seam between CPU and GPU."""
