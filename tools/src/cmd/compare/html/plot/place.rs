//! Where the names of points stand: beside them, over nothing else if that can be.

/// A rectangle in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Box {
    /// Left end.
    pub left: i32,
    /// Upper end.
    pub top: i32,
    /// Right end.
    pub right: i32,
    /// Lower end.
    pub bottom: i32,
}

impl Box {
    /// Around a point.
    pub fn around((x, y): (i32, i32), half_width: i32, half_height: i32) -> Box {
        Box { left: x - half_width, top: y - half_height, right: x + half_width, bottom: y + half_height }
    }

    /// The area that both have.
    fn common(&self, other: &Box) -> i64 {
        let width = self.right.min(other.right) - self.left.max(other.left);
        let height = self.bottom.min(other.bottom) - self.top.max(other.top);
        i64::from(width.max(0)) * i64::from(height.max(0))
    }

    /// The area of it that is not in `other`.
    fn outside(&self, other: &Box) -> i64 {
        i64::from(self.right - self.left) * i64::from(self.bottom - self.top) - self.common(other)
    }
}

/// A place for the name of each point, of the given size, inside `within` and off `taken`. The points' own marks are among `taken`.
pub fn place(points: &[(i32, i32)], sizes: &[(i32, i32)], within: Box, mut taken: Vec<Box>) -> Vec<Box> {
    let mut places = Vec::new();
    for (point, size) in points.iter().zip(sizes) {
        let cost = |place: &Box| {
            let over: i64 = taken.iter().map(|other| other.common(place)).sum();
            over + 20 * place.outside(&within)
        };
        // Of equals the first: the nearest.
        let best = around(*point, *size).into_iter().min_by_key(cost).expect("there are places around every point");
        taken.push(best);
        places.push(best);
    }
    places
}

/// Places around a point, the better first: to the right, to the left, above, below, then farther off.
fn around((x, y): (i32, i32), (width, height): (i32, i32)) -> Vec<Box> {
    let mut places = Vec::new();
    for away in [0, 1, 2, 3, 4, 5, 7, 9, 12] {
        let dy = away * (height * 2 / 3);
        let at = |left: i32, middle: i32| Box {
            left,
            top: middle - height / 2,
            right: left + width,
            bottom: middle + height / 2,
        };
        for (dx, up) in [8 + 5 * away, 8, 40].into_iter().flat_map(|dx| [0, -dy, dy].map(|up| (dx, up))) {
            places.push(at(x + dx, y + up));
            places.push(at(x - dx - width, y + up));
        }
        places.push(at(x - width / 2, y - height - dy));
        places.push(at(x - width / 2, y + height + dy));
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_stand_on_each_other() {
        let within = Box { left: 0, top: 0, right: 300, bottom: 200 };
        let points = [(50, 50), (52, 51), (49, 55), (290, 60), (288, 64), (50, 50), (5, 5)];
        let marks = points.map(|point| Box::around(point, 4, 4));
        let places = place(&points, &[(60, 14); 7], within, marks.to_vec());
        for (i, a) in places.iter().enumerate() {
            assert_eq!(a.outside(&within), 0, "{i} {a:?}");
            assert!(places[..i].iter().chain(&marks).all(|b| a.common(b) == 0), "{i} {places:?}");
        }
    }

    #[test]
    fn one_name_stands_to_the_right_unless_the_plot_ends_there() {
        let within = Box { left: 0, top: 0, right: 300, bottom: 200 };
        let left = |x: i32| place(&[(x, 50)], &[(60, 14)], within, vec![Box::around((x, 50), 4, 4)])[0].left;
        assert_eq!([left(100), left(290)], [108, 222]);
    }
}
