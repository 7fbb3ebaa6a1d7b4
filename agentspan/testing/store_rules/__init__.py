"""The tests of `StoreContract`, by subject. Each test's name is the rule it holds a store to."""
