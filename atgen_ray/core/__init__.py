"""What every room uses: errors, records, settings, money, hashes, strict readers. It imports no
other room.
"""
