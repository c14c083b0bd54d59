module drainscope/accuracy/server

go 1.24
