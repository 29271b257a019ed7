"""What people look at: tables, figures, films and pages, from a finished run alone.

It fits nothing and loads no network, but for the contact sheets in `look`.
"""
