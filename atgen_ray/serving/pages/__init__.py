"""The web pages: templates, styles and scripts of our own, served from the package; nothing comes
from elsewhere.
"""
