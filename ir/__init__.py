"""The intermediate representation and its dialects."""
