//! What plots have in common: a canvas in pixels, colours, texts, round numbers.

use std::path::Path;

use plotters::{
    backend::SVGBackend,
    coord::Shift,
    drawing::{DrawingArea, IntoDrawingArea},
    element::{PathElement, Polygon, Rectangle, Text},
    style::{
        Color, FontTransform, IntoFont, IntoTextStyle, RGBColor, WHITE,
        text_anchor::{HPos, Pos, VPos},
    },
};

/// A point, pixels from the left and from the top.
pub(super) type Point = (i32, i32);

pub(super) const INK: RGBColor = RGBColor(40, 40, 40);
pub(super) const FAINT: RGBColor = RGBColor(215, 215, 215);
/// me2 as it is meant to be used.
pub(super) const OURS: RGBColor = RGBColor(31, 105, 170);
/// me2 otherwise.
pub(super) const OURS_OTHERWISE: RGBColor = RGBColor(140, 180, 215);
/// Others.
pub(super) const RIVALS: RGBColor = RGBColor(225, 140, 50);

/// The colour of a scheme, by its name.
pub(super) fn colour(scheme: &str) -> RGBColor {
    match scheme {
        "me2-hybrid" | "me2-hybrid-codec-auto" => OURS,
        rival if !rival.starts_with("me2-") => RIVALS,
        _ => OURS_OTHERWISE,
    }
}

/// How a text lies at its point.
#[derive(Debug, Clone, Copy)]
pub(super) enum Align {
    Left,
    Centre,
    Right,
}

/// An SVG file to paint on.
pub(super) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

impl<'a> Canvas<'a> {
    pub(super) fn new(path: &'a Path, width: i32, height: i32) -> anyhow::Result<Self> {
        let size = (width.unsigned_abs(), height.unsigned_abs());
        let area = SVGBackend::new(path, size).into_drawing_area();
        area.fill(&WHITE)?;
        Ok(Self { area })
    }

    /// Text, centred vertically at its point; `size` in pixels.
    pub(super) fn text(
        &self,
        at: Point,
        text: &str,
        size: i32,
        align: Align,
    ) -> anyhow::Result<()> {
        let horizontal = match align {
            Align::Left => HPos::Left,
            Align::Centre => HPos::Center,
            Align::Right => HPos::Right,
        };
        let font = ("sans-serif", size)
            .into_font()
            .transform(FontTransform::None);
        let style = font.color(&INK).into_text_style(&self.area);
        let style = style.pos(Pos::new(horizontal, VPos::Center));
        Ok(self.area.draw(&Text::new(text.to_owned(), at, style))?)
    }

    pub(super) fn rectangle(&self, corners: [Point; 2], colour: RGBColor) -> anyhow::Result<()> {
        Ok(self.area.draw(&Rectangle::new(corners, colour.filled()))?)
    }

    pub(super) fn line(&self, points: &[Point], colour: RGBColor) -> anyhow::Result<()> {
        Ok(self
            .area
            .draw(&PathElement::new(points.to_vec(), colour.stroke_width(1)))?)
    }

    /// A closed shape, filled.
    pub(super) fn shape(&self, points: &[Point], colour: RGBColor) -> anyhow::Result<()> {
        Ok(self
            .area
            .draw(&Polygon::new(points.to_vec(), colour.filled()))?)
    }

    /// A square of a colour, and what it stands for; gives where the next one can be.
    pub(super) fn legend(&self, at: Point, colour: RGBColor, text: &str) -> anyhow::Result<Point> {
        const SIDE: i32 = 10;
        let top = at.1 - SIDE / 2;
        self.rectangle([(at.0, top), (at.0 + SIDE, top + SIDE)], colour)?;
        self.text((at.0 + SIDE + 6, at.1), text, 12, Align::Left)?;
        let width = 7 * i32::try_from(text.chars().count()).unwrap_or(0);
        Ok((at.0 + SIDE + 30 + width, at.1))
    }

    pub(super) fn finish(self) -> anyhow::Result<()> {
        Ok(self.area.present()?)
    }
}
