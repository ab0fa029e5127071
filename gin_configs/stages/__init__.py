"""Gin files, shipped as package data."""
