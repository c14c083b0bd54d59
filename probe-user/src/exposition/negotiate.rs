//! Content negotiation of `/metrics` (RFC 9110, 12.5): which text format, and whether gzip.

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Prometheus,
}

impl Format {
    /// The `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The format that the `Accept` header prefers. OpenMetrics where it is liked as well as plain text; plain text for
/// whoever does not ask for a format of metrics.
#[must_use]
pub fn format(accept: &str) -> Format {
    let open_metrics = quality(accept, "application/openmetrics-text");
    let plain = quality(accept, "text/plain").max(quality(accept, "text/*")).max(quality(accept, "*/*"));
    if open_metrics > 0.0 && open_metrics >= plain { Format::OpenMetrics } else { Format::Prometheus }
}

/// Whether the `Accept-Encoding` header allows gzip.
#[must_use]
pub fn gzip(accept_encoding: &str) -> bool {
    quality(accept_encoding, "gzip") > 0.0
}

/// Highest quality that `header` gives to `name`; 0 if it does not name it.
fn quality(header: &str, name: &str) -> f32 {
    let mut best: f32 = 0.0;
    for entry in header.split(',') {
        let mut parts = entry.split(';').map(str::trim);
        if !parts.next().is_some_and(|value| value.eq_ignore_ascii_case(name)) {
            continue;
        }
        let given = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        best = best.max(given.map_or(1.0, |text| text.parse().unwrap_or(0.0)));
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_gets_open_metrics_and_people_get_plain_text() {
        for (accept, expected) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Format::Prometheus),
            (
                "application/openmetrics-text;version=1.0.0;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.3",
                Format::OpenMetrics,
            ),
            ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.2", Format::Prometheus),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text;q=nonsense", Format::Prometheus),
            (";;,,;q=", Format::Prometheus),
        ] {
            assert_eq!(format(accept), expected, "{accept}");
        }
    }

    #[test]
    fn gzip_only_where_it_is_allowed() {
        for (header, expected) in
            [("", false), ("gzip", true), ("br, gzip;q=0.5", true), ("gzip;q=0", false), ("identity", false)]
        {
            assert_eq!(gzip(header), expected, "{header}");
        }
    }
}
