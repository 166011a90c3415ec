"""Picture and sound: out of a file, from arrays, into a file. Only decode.py and write.py open media files."""
