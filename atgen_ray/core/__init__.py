"""Foundations of all other rooms: errors, records, settings, money, hashes, strict readers. The
room imports no other room.
"""
