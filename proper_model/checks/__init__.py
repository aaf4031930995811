"""Checks before anything is trained, signed or installed: is this base, this release usable?"""
