"""Access control: tokens, roles, sessions, limits, and restrictions on configurations from
outside.
"""
