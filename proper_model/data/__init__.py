"""Users and their histories out of OPPU's and LaMP's files."""
