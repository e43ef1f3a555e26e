//! Path templates of `google.api.http`: which paths they match and what a path binds. Pure.
//!
//! `**` is not supported: no rule of this API has one, and start-up refuses it.

/// A template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    segments: Vec<Segment>,
    variables: Vec<Variable>,
    verb: Option<String>,
}

/// A part of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// This text.
    Literal(String),
    /// Anything that is not empty.
    Any,
}

/// A field and the segments that it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Variable {
    field: String,
    first: usize,
    count: usize,
}

impl Template {
    /// Parses a template; `None` if it is not one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut rest = text.strip_prefix('/')?;
        let mut template = Self {
            segments: Vec::new(),
            variables: Vec::new(),
            verb: None,
        };
        loop {
            rest = match rest.strip_prefix('{') {
                Some(variable) => {
                    let (variable, rest) = variable.split_once('}')?;
                    template.add_variable(variable)?;
                    rest
                }
                None => {
                    let end = rest.find(['/', ':']).unwrap_or(rest.len());
                    template.segments.push(Segment::parse(&rest[..end])?);
                    &rest[end..]
                }
            };
            match rest.split_at_checked(1) {
                None => return Some(template),
                Some(("/", after)) => rest = after,
                Some((":", verb)) if !verb.is_empty() && !verb.contains(['/', '{', ':']) => {
                    template.verb = Some(verb.to_owned());
                    return Some(template);
                }
                Some(_) => return None,
            }
        }
    }

    fn add_variable(&mut self, text: &str) -> Option<()> {
        let (field, segments) = text.split_once('=').unwrap_or((text, "*"));
        let first = self.segments.len();
        for segment in segments.split('/') {
            self.segments.push(Segment::parse(segment)?);
        }
        let is_path = !field.is_empty() && field.split('.').all(|it| !it.is_empty());
        self.variables.push(Variable {
            field: field.to_owned(),
            first,
            count: self.segments.len() - first,
        });
        is_path.then_some(())
    }

    /// The parts of the path.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// What follows the last colon.
    pub(crate) fn verb(&self) -> Option<&str> {
        self.verb.as_deref()
    }

    /// The fields that a path binds.
    pub(crate) fn fields(&self) -> Vec<&str> {
        self.variables.iter().map(|it| it.field.as_str()).collect()
    }

    /// The fields that a path binds, if it matches. The path is as it was sent.
    pub(crate) fn matches(&self, path: &str) -> Option<Vec<(&str, String)>> {
        let path = path.strip_prefix('/')?;
        let (path, verb) = match path.rsplit_once(':') {
            Some((path, verb)) if !verb.contains('/') => (path, Some(verb)),
            _ => (path, None),
        };
        if verb != self.verb.as_deref() {
            return None;
        }
        let parts: Vec<&str> = path.split('/').collect();
        let fits = |(segment, part): (&Segment, &&str)| match segment {
            Segment::Literal(text) => text == part,
            Segment::Any => !part.is_empty(),
        };
        if parts.len() != self.segments.len() || !self.segments.iter().zip(&parts).all(fits) {
            return None;
        }
        self.variables
            .iter()
            .map(|variable| {
                let bound = &parts[variable.first..variable.first + variable.count];
                Some((variable.field.as_str(), decode(bound)?))
            })
            .collect()
    }
}

impl Segment {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "*" => Some(Self::Any),
            "" | "**" => None,
            literal if literal.contains(['{', '}', '*']) => None,
            literal => Some(Self::Literal(literal.to_owned())),
        }
    }
}

/// Undoes percent-encoding. In a value of several segments an encoded slash stays encoded, because
/// it is not one of those between segments.
fn decode(parts: &[&str]) -> Option<String> {
    let decoded: Option<Vec<String>> = parts
        .iter()
        .map(|it| decode_part(it, parts.len() > 1))
        .collect();
    decoded.map(|it| it.join("/"))
}

fn decode_part(part: &str, keeps_slashes: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        let byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
        if byte == b'/' && keeps_slashes {
            bytes.extend_from_slice(&rest[..3]);
        } else {
            bytes.push(byte);
        }
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_bind_fields() {
        let cases = [
            ("/v1/tenants", "/v1/tenants", Some(vec![])),
            (
                "/v1/{name=tenants/*}",
                "/v1/tenants/acme",
                Some(vec![("name", "tenants/acme")]),
            ),
            ("/v1/{name=tenants/*}", "/v1/tenants/acme/x", None),
            ("/v1/{name=tenants/*}", "/v1/tenants/", None),
            ("/v1/{name=tenants/*}", "/v1/tenants/acme:suspend", None),
            (
                "/v1/{name=tenants/*}:suspend",
                "/v1/tenants/acme:suspend",
                Some(vec![("name", "tenants/acme")]),
            ),
            ("/v1/{name=tenants/*}:suspend", "/v1/tenants/acme", None),
            (
                "/v1/{parent=tenants/*}/subscriptions",
                "/v1/tenants/-/subscriptions",
                Some(vec![("parent", "tenants/-")]),
            ),
            ("/v1/{a.b}", "/v1/x%20y%2Fz", Some(vec![("a.b", "x y/z")])),
            (
                "/v1/{a=x/*}",
                "/v1/x/y%20z%2fw",
                Some(vec![("a", "x/y z%2fw")]),
            ),
            ("/v1/{a}", "/v1/%C3%BCn%C3%AF", Some(vec![("a", "ünï")])),
            ("/v1/{a}", "/v1/%C3", None),
            ("/v1/{a}", "/v1/%zz", None),
            ("/v1/{a}", "/v1/%+f", None),
            ("/v1/{a}", "/v1/%4", None),
        ];
        for (template, path, expected) in cases {
            let template = Template::parse(template).unwrap();
            let expected = expected.map(|it| {
                let owned = |(field, value): (&'static str, &str)| (field, value.to_owned());
                it.into_iter().map(owned).collect::<Vec<_>>()
            });
            assert_eq!(template.matches(path), expected, "{path}");
        }
    }

    #[test]
    fn other_texts_are_not_templates() {
        for text in [
            "",
            "v1",
            "/",
            "/v1/",
            "/v1/{",
            "/v1/{}",
            "/v1/{a=}",
            "/v1/{a=**}",
            "/v1/x:",
            "/v1/{a}b",
            "/v1//x",
        ] {
            assert_eq!(Template::parse(text), None, "{text}");
        }
    }
}
