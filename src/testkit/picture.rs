//! A picture made of lines, boxes and words: plain SVG 1.1 without a script or a style sheet, so
//! that any browser shows it from a file.

use std::fmt::Write;

/// Told apart also by those who see few colours (Okabe and Ito).
pub const COLOURS: [&str; 8] =
    ["#d55e00", "#cc79a7", "#e69f00", "#0072b2", "#009e73", "#000000", "#56b4e9", "#999999"];

/// Text as XML has it.
#[must_use]
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A picture that is being drawn. Places are in pixels from the upper left corner.
#[derive(Clone, Debug)]
pub struct Picture(String);

impl Picture {
    /// An empty one on white ground.
    #[must_use]
    pub fn new(width: u32, height: u32) -> Picture {
        let mut picture = Picture(String::new());
        picture.add(format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">"#
        ));
        picture.add(format_args!(r#"<rect width="{width}" height="{height}" fill="white"/>"#));
        picture
    }

    fn add(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.write_fmt(line).expect("a string takes all");
        self.0.push('\n');
    }

    /// Words; `anchor` says which end of them is at the place: `start`, `middle` or `end`.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: &str, size: u32, text: &str) {
        let text = escaped(text);
        self.add(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}">{text}</text>"#
        ));
    }

    /// A thin line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.add(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}"/>"#
        ));
    }

    /// A filled box: its upper left corner, its width and height.
    pub fn bar(&mut self, (x, y): (f64, f64), (wide, tall): (f64, f64), colour: &str) {
        self.add(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{wide:.1}" height="{tall:.1}" fill="{colour}"/>"#
        ));
    }

    /// A thicker line through points.
    pub fn curve(&mut self, points: impl IntoIterator<Item = (f64, f64)>, colour: &str) {
        let points: Vec<String> =
            points.into_iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        self.add(format_args!(
            r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>"#
        ));
    }

    /// What `draw` draws, so many pixels further down.
    pub fn down(&mut self, down: u32, draw: impl FnOnce(&mut Picture)) {
        self.add(format_args!(r#"<g transform="translate(0,{down})">"#));
        draw(self);
        self.add(format_args!("</g>"));
    }

    /// The file's content.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.add(format_args!("</svg>"));
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stroke_is_an_element_of_its_own() {
        let mut picture = Picture::new(10, 20);
        picture.text((1.0, 2.0), "middle", 9, "a < b & \"c\" > d");
        picture.line((0.0, 1.0), (2.0, 3.04), "red");
        picture.bar((1.0, 2.0), (3.0, 4.0), "#123456");
        picture.down(5, |below| below.curve([(0.0, 0.5), (1.0, 1.5)], "blue"));
        let text = picture.finish();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 9);
        assert!(lines[0].starts_with("<svg ") && lines[0].contains(r#"height="20""#));
        assert_eq!(
            lines[2],
            r#"<text x="1.0" y="2.0" text-anchor="middle" font-size="9">a &lt; b &amp; &quot;c&quot; &gt; d</text>"#
        );
        assert_eq!(lines[3], r#"<line x1="0.0" y1="1.0" x2="2.0" y2="3.0" stroke="red"/>"#);
        let bar = r##"<rect x="1.0" y="2.0" width="3.0" height="4.0" fill="#123456"/>"##;
        assert_eq!(lines[4], bar);
        assert_eq!(lines[5], r#"<g transform="translate(0,5)">"#);
        assert!(lines[6].contains(r#"points="0.0,0.5 1.0,1.5""#));
        assert_eq!(&lines[7..], ["</g>", "</svg>"]);
    }
}
