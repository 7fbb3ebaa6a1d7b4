"""What users write for other frameworks, by framework. Importing it imports none of them."""
