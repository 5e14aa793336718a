"""What people read: reports as text, HTML and pictures. No files."""
