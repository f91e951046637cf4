//! Embeds the compiled kernels of NVIDIA's families.

#[path = "../gpu/build/embed.rs"]
mod embed;

fn main() {
    embed::packs("sm");
}
