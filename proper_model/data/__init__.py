"""Users and their histories out of OPPU's and LaMP's files."""

from proper_model.data import validation
from proper_model.data.dates import date_key, normal_date, oddity
from proper_model.data.description import GroupSummary, Lengths
from proper_model.data.parsing import identifier, parse_item, text_of, whole_text
from proper_model.data.splits import apply_split, check_pool, effective_split, parse_split
from proper_model.data.users import read_population, read_users, user_from_json, write_oppu
from proper_model.data.validation import ValidationReport

__all__ = [
    "GroupSummary", "Lengths", "ValidationReport", "apply_split", "check_pool", "date_key",
    "effective_split", "identifier", "normal_date", "oddity", "parse_item", "parse_split",
    "read_population", "read_users", "text_of", "user_from_json", "validation", "whole_text",
    "write_oppu",
]
