"""Web pages: templates, styles and scripts, all served from the package and none from another
host.
"""
