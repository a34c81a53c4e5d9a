//! The configuration language, from text to checked model.

mod again;
mod broken;
mod documents;
mod loading;
mod mutation;
mod support;
mod template;
mod typos;
