module drainscope/cluster/images

go 1.24
