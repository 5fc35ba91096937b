//! Sums with everything below. A subtree is a range of the tree's order, so the sum over one is the difference of two
//! sums over everything before: one pass, however many customers and levels there are.

use crate::base::id::CustomerId;
use crate::service::authority::Tree;

/// What customers have themselves of `N` things.
pub(super) struct Own<'t, const N: usize> {
    tree: &'t Tree,
    at: Vec<[i128; N]>,
}

impl<'t, const N: usize> Own<'t, N> {
    /// Nobody has anything.
    pub fn new(tree: &'t Tree) -> Self {
        Self { tree, at: vec![[0; N]; tree.len()] }
    }

    /// A customer has so much more itself; one that is not in the tree is nobody's.
    pub fn add(&mut self, customer: CustomerId, more: [i64; N]) {
        let place = self.tree.node(customer).map(|_| self.tree.range(customer).start);
        if let Some(own) = place.and_then(|place| self.at.get_mut(place)) {
            own.iter_mut().zip(more).for_each(|(sum, more)| *sum += i128::from(more));
        }
    }

    /// Adds everything up.
    pub fn add_up(self) -> Subtotals<'t, N> {
        let mut before = Vec::with_capacity(self.at.len() + 1);
        let mut sum = [0; N];
        before.push(sum);
        for own in self.at {
            sum.iter_mut().zip(own).for_each(|(sum, more)| *sum += more);
            before.push(sum);
        }
        Subtotals { tree: self.tree, before }
    }
}

/// What customers have with everything below them.
pub(super) struct Subtotals<'t, const N: usize> {
    tree: &'t Tree,
    /// By place in the tree: the sum over all before.
    before: Vec<[i128; N]>,
}

impl<const N: usize> Subtotals<'_, N> {
    /// The sums at and below a customer; what no number holds is the largest that there is.
    pub fn of(&self, customer: CustomerId) -> [i64; N] {
        let range = self.tree.range(customer);
        let at = |place: usize| self.before.get(place).copied().unwrap_or([0; N]);
        let (from, until) = (at(range.start), at(range.end));
        std::array::from_fn(|index| {
            let sum =
                until.get(index).copied().unwrap_or_default() - from.get(index).copied().unwrap_or_default();
            i64::try_from(sum).unwrap_or(i64::MAX)
        })
    }
}

/// Of customers in the tree's order those that a report shows: all, or where there are more than `lines_max`, those
/// highest up. With them, how many are left out.
pub(super) fn shown(
    tree: &Tree,
    mut customers: Vec<CustomerId>,
    lines_max: usize,
) -> (Vec<CustomerId>, Option<i64>) {
    let left_out = left_out(customers.len().saturating_sub(lines_max));
    if left_out.is_some() {
        let depth = |id: &CustomerId| tree.node(*id).map_or(0, |node| node.depth);
        customers.sort_by_key(depth);
        customers.truncate(lines_max);
        customers.sort_by_key(|id| tree.range(*id).start);
    }
    (customers, left_out)
}

/// How a report tells that so many lines are left out; nothing when none is.
pub(super) fn left_out(count: usize) -> Option<i64> {
    i64::try_from(count).ok().filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::metadata::customer::NodeRow;

    /// 1 above 2 and 3, 4 below 2.
    fn tree() -> Tree {
        let row = |(id, parent): (i64, Option<i64>)| NodeRow {
            id: CustomerId(id),
            parent: parent.map(CustomerId),
            slug: format!("n{id}"),
            code: format!("c{id}"),
            deleted: false,
            ceiling: None,
            is_held: false,
        };
        let rows = [(1, None), (2, Some(1)), (3, Some(1)), (4, Some(2))];
        Tree::build(String::new(), rows.into_iter().map(row).collect()).unwrap()
    }

    #[test]
    fn sums_are_of_everything_below_and_stop_at_the_largest_number() {
        let tree = tree();
        let mut own = Own::new(&tree);
        own.add(CustomerId(4), [5, i64::MAX]);
        own.add(CustomerId(2), [1, 0]);
        own.add(CustomerId(3), [10, i64::MAX]);
        own.add(CustomerId(3), [10, 0]);
        own.add(CustomerId(99), [1_000, 1]);
        let sums = own.add_up();
        let of = |id| sums.of(CustomerId(id));
        assert_eq!(
            [of(1), of(2), of(3), of(4)],
            [[26, i64::MAX], [6, i64::MAX], [20, i64::MAX], [5, i64::MAX]]
        );
        assert_eq!(of(99), [0, 0]);
    }

    #[test]
    fn those_highest_up_are_shown_and_the_others_counted() {
        let tree = tree();
        let all: Vec<CustomerId> = [1, 2, 4, 3].map(CustomerId).to_vec();
        assert_eq!(shown(&tree, all.clone(), 4), (all.clone(), None));
        assert_eq!(shown(&tree, all, 3), ([1, 2, 3].map(CustomerId).to_vec(), Some(1)));
    }
}
