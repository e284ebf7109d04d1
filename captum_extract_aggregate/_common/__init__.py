"""What all rooms use, and what knows no model."""
