//! Embeds the compiled kernels of AMD's families.

#[path = "../gpu/build/embed.rs"]
mod embed;

fn main() {
    embed::packs("gfx");
}
