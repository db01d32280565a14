"""One question a file, one JSON object on the last line, the rival beside us in the same run."""
