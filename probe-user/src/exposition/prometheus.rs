//! From OpenMetrics to Prometheus' text format 0.0.4, line by line: the same samples with the same values; what the older
//! format has no word for (units, exemplars, the end mark) is left out.

/// Converts a whole exposition.
#[must_use]
pub fn from_open_metrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help = "";
    for line in text.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // The name depends on the type, which comes next.
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            out.push_str(&format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n"));
        } else {
            out.push_str(without_exemplar(line));
            out.push('\n');
        }
    }
    out
}

/// A sample line up to its exemplar, if it has one: the first `#` outside of label values.
fn without_exemplar(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (index, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return line.get(..index).unwrap_or(line).trim_end(),
            _ => {}
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_samples_in_the_older_format() {
        let text = r#"# HELP a_things Things.
# TYPE a_things counter
a_things_total{w="x # {y=\"1\"} 2"} 7 # {pod="p"} 1.0 12.5
# HELP b About.
# TYPE b info
b_info{version="1"} 1
# HELP c_seconds Time.
# TYPE c_seconds gauge
# UNIT c_seconds seconds
c_seconds 1.5
# EOF
"#;
        let expected = r#"# HELP a_things_total Things.
# TYPE a_things_total counter
a_things_total{w="x # {y=\"1\"} 2"} 7
# HELP b_info About.
# TYPE b_info gauge
b_info{version="1"} 1
# HELP c_seconds Time.
# TYPE c_seconds gauge
c_seconds 1.5
"#;
        assert_eq!(from_open_metrics(text), expected);
    }
}
