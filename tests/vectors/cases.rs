//! Reads `egress_cases.tsv`: columns case, cell, expected (`allow` or `deny`), why. Compiled into the
//! tests of more than one crate.

const TABLE: &str = include_str!("egress_cases.tsv");

/// Case, cell and expectation of the rows of a kind.
pub(crate) fn cases(kind: &str) -> Vec<(&'static str, &'static str, &'static str)> {
    let rows = TABLE.lines().skip(1).filter_map(|line| {
        let mut cells = line.split('\t');
        Some((cells.next()?, cells.next()?, cells.next()?))
    });
    rows.filter(|(case, ..)| case.starts_with(kind)).collect()
}

/// Undoes the escapes of a cell: `\t \n \r \\ \u{hex}`.
pub(crate) fn unescape(cell: &str) -> String {
    let mut text = String::new();
    let mut rest = cell;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let (character, after) = match after.as_bytes()[0] {
            b't' => ('\t', &after[1..]),
            b'n' => ('\n', &after[1..]),
            b'r' => ('\r', &after[1..]),
            b'u' => {
                let (hex, after) = after[2..].split_once('}').unwrap();
                let code = u32::from_str_radix(hex, 16).unwrap();
                (char::from_u32(code).unwrap(), after)
            }
            _ => ('\\', &after[1..]),
        };
        text.push(character);
        rest = after;
    }
    text + rest
}
