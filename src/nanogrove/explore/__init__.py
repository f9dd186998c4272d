"""What a file or folder holds, and the preset that fits it."""
