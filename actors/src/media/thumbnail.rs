//! Thumbnails: pure.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, ImageReader, Limits, imageops::FilterType};

use crate::error::{DomainError, Outcome};

/// Pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Across.
    pub width: u32,
    /// Down.
    pub height: u32,
}

/// How the image is made to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Fills the size, cutting off what stands out.
    Crop,
    /// Fits into the size.
    Scale,
}

impl Method {
    /// As the specification writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crop => "crop",
            Self::Scale => "scale",
        }
    }
}

/// A made thumbnail.
#[derive(Clone, Debug)]
pub struct Made {
    /// The file.
    pub bytes: Vec<u8>,
    /// Its media type.
    pub content_type: &'static str,
}

/// The sizes that are made, so that clients cannot fill the disk with others (client-server API, "Thumbnails").
const STANDARD: [(u32, u32, Method); 5] = [
    (32, 32, Method::Crop),
    (96, 96, Method::Crop),
    (320, 240, Method::Scale),
    (640, 480, Method::Scale),
    (800, 600, Method::Scale),
];

/// The smallest standard size of the method that is at least as large as wanted, else the largest one.
#[must_use]
pub fn standard(wanted: Size, method: Method) -> (Size, Method) {
    let size = |(width, height, method): (u32, u32, Method)| (Size { width, height }, method);
    let of_method = || STANDARD.into_iter().filter(|(_, _, m)| *m == method).map(size);
    let enough = |(size, _): &(Size, Method)| size.width >= wanted.width && size.height >= wanted.height;
    let any = STANDARD.into_iter().map(size).find(enough);
    of_method()
        .find(enough)
        .or(any)
        .unwrap_or_else(|| size(STANDARD[STANDARD.len() - 1]))
}

/// Decodes and scales. Images are never made larger.
///
/// # Errors
/// `M_UNKNOWN` (400) for what is no image this server reads; `M_TOO_LARGE` above `max_pixels`.
pub fn make(file: &[u8], size: Size, method: Method, max_pixels: u64) -> Outcome<Made> {
    let unreadable = |e: &dyn std::fmt::Display| DomainError::unknown(format!("No thumbnail can be made of this: {e}"));
    let reader = || {
        ImageReader::new(Cursor::new(file))
            .with_guessed_format()
            .map_err(|e| unreadable(&e))
    };
    let (width, height) = reader()?.into_dimensions().map_err(|e| unreadable(&e))?;
    if u64::from(width) * u64::from(height) > max_pixels {
        return Err(DomainError::too_large("The image has too many pixels for a thumbnail."));
    }
    let mut reader = reader()?;
    let mut limits = Limits::default();
    // Decoders may need a few bytes for each pixel beside the picture itself.
    limits.max_alloc = Some(max_pixels.saturating_mul(16).max(64 * 1024 * 1024));
    reader.limits(limits);
    let image = reader.decode().map_err(|e| unreadable(&e))?;
    let smaller = image.width() <= size.width && image.height() <= size.height;
    let image = match method {
        _ if smaller => image,
        Method::Crop => image.resize_to_fill(size.width, size.height, FilterType::Triangle),
        Method::Scale => image.resize(size.width, size.height, FilterType::Triangle),
    };
    encode(&image).map_err(|e| unreadable(&e))
}

fn encode(image: &DynamicImage) -> image::ImageResult<Made> {
    let mut bytes = Vec::new();
    if image.color().has_alpha() {
        image.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)?;
        return Ok(Made {
            bytes,
            content_type: "image/png",
        });
    }
    DynamicImage::from(image.to_rgb8()).write_to(&mut Cursor::new(&mut bytes), ImageFormat::Jpeg)?;
    Ok(Made {
        bytes,
        content_type: "image/jpeg",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 1_000_000;

    fn picture(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        DynamicImage::new_rgb8(width, height)
            .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
            .expect("an image can be written");
        bytes
    }

    fn made(width: u32, height: u32, size: Size, method: Method) -> (u32, u32) {
        let made = make(&picture(width, height), size, method, MAX).expect("a thumbnail");
        let image = image::load_from_memory(&made.bytes).expect("an image");
        (image.width(), image.height())
    }

    #[test]
    fn sizes() {
        let size = Size { width: 96, height: 96 };
        assert_eq!(made(400, 200, size, Method::Crop), (96, 96));
        assert_eq!(made(400, 200, size, Method::Scale), (96, 48));
        assert_eq!(made(40, 20, size, Method::Scale), (40, 20), "never larger");
    }

    #[test]
    fn wanted_sizes_are_rounded_up_to_standard_ones() {
        let check = |width, height, method, expected| {
            let (size, method) = standard(Size { width, height }, method);
            assert_eq!((size.width, size.height, method), expected);
        };
        check(20, 20, Method::Crop, (32, 32, Method::Crop));
        check(33, 20, Method::Crop, (96, 96, Method::Crop));
        check(300, 100, Method::Scale, (320, 240, Method::Scale));
        check(300, 300, Method::Crop, (640, 480, Method::Scale));
        check(9_000, 9_000, Method::Scale, (800, 600, Method::Scale));
    }

    #[test]
    fn what_is_no_image_or_too_large_is_refused() {
        let size = Size { width: 32, height: 32 };
        assert!(make(b"hello", size, Method::Scale, MAX).is_err());
        let refused = make(&picture(2_000, 1_000), size, Method::Scale, MAX).expect_err("too many pixels");
        assert_eq!(refused.errcode(), Some("M_TOO_LARGE"));
    }
}
