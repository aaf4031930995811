"""What an uploaded gradient gives away of its texts: `uploads` makes what would be sent, `matching` searches a
text whose gradient is the same, `attacks` scores one seed, `command` is `proper-sim privacy inversion`.
"""
