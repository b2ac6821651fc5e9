"""Pictures of maps, and interactive views for notebooks."""
