//! The hash tree that both sides compare at the end: a leaf covers 512 pages, so that a
//! difference is found by comparing leaves first.

/// Pages of a leaf.
pub const LEAF_PAGES: usize = 512;

/// One hash for each 512 page hashes. Holes have the hash 0.
pub fn leaves(hashes: &[u64]) -> Vec<u64> {
    hashes.chunks(LEAF_PAGES).map(combine).collect()
}

/// The page hashes of a leaf.
pub fn leaf(hashes: &[u64], leaf: usize) -> &[u64] {
    let start = (leaf * LEAF_PAGES).min(hashes.len());
    &hashes[start..(start + LEAF_PAGES).min(hashes.len())]
}

/// Leaves that differ; a different number of leaves makes all of them differ.
pub fn differing(ours: &[u64], theirs: &[u64]) -> Vec<usize> {
    if ours.len() != theirs.len() {
        return (0..ours.len()).collect();
    }
    (0..ours.len())
        .filter(|leaf| ours[*leaf] != theirs[*leaf])
        .collect()
}

/// Order matters: each hash is mixed with what came before (the finaliser of MurmurHash3).
fn combine(hashes: &[u64]) -> u64 {
    hashes.iter().fold(hashes.len() as u64, |sum, hash| {
        let mut mixed = sum.rotate_left(23) ^ hash;
        mixed = (mixed ^ mixed >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        mixed ^ mixed >> 33
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_page_changes_one_leaf() {
        let mut hashes: Vec<u64> = (0..1300).collect();
        let before = leaves(&hashes);
        assert_eq!(before.len(), 3);
        hashes[600] ^= 1;
        assert_eq!(differing(&before, &leaves(&hashes)), [1]);
        assert_eq!(leaf(&hashes, 2).len(), 276);
        hashes.swap(0, 1);
        assert_eq!(differing(&before, &leaves(&hashes)), [0, 1]);
        assert_eq!(differing(&before, &before[1..]), [0, 1, 2]);
    }
}
