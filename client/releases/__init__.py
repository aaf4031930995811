"""Releases on this machine: fetched, verified, installed, loaded."""
