//! Texts that people write and others read: one form for what looks the same, and nothing that cannot be seen.

use unicode_normalization::UnicodeNormalization;

/// The text in normalization form C (Unicode Standard Annex 15), in which it is stored and compared.
pub fn composed(text: &str) -> String {
    text.nfc().collect()
}

/// The first character that is not seen or that changes how others are seen: controls, marks of writing direction,
/// joiners where nothing joins, fillers, tags. Names in every script do without them, and with them one name could
/// be made to look like another.
pub fn hidden_character(text: &str) -> Option<char> {
    let mut before = None;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let hidden = match character {
            '\u{200c}' | '\u{200d}' => {
                !(before.is_some_and(joins) && characters.peek().copied().is_some_and(joins))
            }
            other => is_hidden(other),
        };
        if hidden {
            return Some(character);
        }
        before = Some(character);
    }
    None
}

/// Whether the character is of a script that needs joiners to be written: from Arabic to Tibetan, Myanmar, Khmer and
/// Mongolian (after RFC 5892 appendix A, by blocks).
fn joins(character: char) -> bool {
    let block = matches!(character,
        '\u{0600}'..='\u{0fff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{1800}'..='\u{18af}');
    block && !character.is_numeric() && !is_hidden(character)
}

/// Characters of the categories Cc, Cf, Zl and Zp, those that are displayed as nothing (DerivedCoreProperties,
/// Default_Ignorable_Code_Point) but the variation selectors, for private use, and no characters at all.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{00ad}' | '\u{034f}' | '\u{0600}'..='\u{0605}' | '\u{061c}' | '\u{06dd}' | '\u{070f}'
            | '\u{0890}' | '\u{0891}' | '\u{08e2}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{e000}'..='\u{f8ff}' | '\u{fdd0}'..='\u{fdef}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{10ffff}')
        || u32::from(character) & 0xfffe == 0xfffe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_script_are_taken() {
        for name in [
            "ACME Ltd",
            "Ministère de l’Éducation",
            "Министерство",
            "政府資訊科技",
            "보건복지부",
            "وزارة الصحة",
            "می\u{200c}خواهم",
            "श्री\u{200d}मती",
            "ក្រសួង",
            "משרד הבריאות",
            "❤\u{fe0f} Café",
            "Ⅷ ½ №",
        ] {
            assert_eq!(hidden_character(name), None, "{name:?}");
        }
    }

    #[test]
    fn what_is_not_seen_is_found() {
        for (name, hidden) in [
            ("a\u{200b}b", '\u{200b}'),
            ("\u{202e}drawkcab", '\u{202e}'),
            ("a\u{2066}b\u{2069}", '\u{2066}'),
            ("pay\u{200d}pal", '\u{200d}'),
            ("می\u{200c}", '\u{200c}'),
            ("م\u{200c}\u{200c}ن", '\u{200c}'),
            ("\u{feff}bom", '\u{feff}'),
            ("soft\u{ad}hyphen", '\u{ad}'),
            ("tag\u{e0041}", '\u{e0041}'),
            ("nul\0", '\0'),
            ("line\u{2028}", '\u{2028}'),
            ("\u{3164}", '\u{3164}'),
            ("\u{fffe}", '\u{fffe}'),
        ] {
            assert_eq!(hidden_character(name), Some(hidden), "{name:?}");
        }
    }

    #[test]
    fn the_same_text_has_one_form() {
        assert_eq!(composed("Jo\u{308}rg"), "J\u{f6}rg");
        assert_eq!(composed("\u{212b}"), "\u{e5}".to_uppercase());
    }
}
