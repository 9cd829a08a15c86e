"""What runsc is and how it is executed."""
