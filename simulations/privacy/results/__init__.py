"""What an attack leaves: `schema` of the file, `sentences` for a record of processing, `show`: table, figure
and page; `rates` and `rates_show` the same for attacks that succeed person by person, `seeded` what
files share, `kept` finished seeds, `options` of the commands, `chart` a figure of lines, `leaving` writes and says a result.
"""
