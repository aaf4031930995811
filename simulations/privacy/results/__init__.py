"""What an attack leaves: `schema` of the file, `sentences` for a record of processing, `show`: table, figure
and page.
"""
