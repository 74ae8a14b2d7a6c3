"""What people think of answers: collected, kept, judged and turned into the files that training loads."""
