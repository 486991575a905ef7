"""SCoRe on MATH with the settings of the paper; see README.md."""
