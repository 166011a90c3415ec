"""What the page does. Its boxes are in app.py, their looks in the files beside this one."""
