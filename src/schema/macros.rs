//! The declaration macros. [`crate::schema`] explains their use.

/// Declares a mapping of the configuration: struct, decoder, JSON dump, schema and reference in one.
///
/// ```text
/// config_struct! {
///     /// What the mapping is for.
///     #[check(Self::check)]        // optional: fn(&Self, &Node, &mut Cx), for what no single key can say
///     #[shorthand(key)]            // optional: a bare value `x` means `{key: x}`
///     pub struct Name {
///         /// Meaning. Without a default the key is required, unless its type is Option.
///         key: Type,
///         /// Meaning. The default is written as in a file.
///         timeout | alias: Duration = "30s",
///     }
/// }
/// ```
#[macro_export]
macro_rules! config_struct {
    (
        $(#[doc = $doc:literal])*
        $(#[check($check:expr)])?
        $(#[shorthand($shorthand:ident)])?
        $vis:vis struct $name:ident {
            $(
                $(#[doc = $field_doc:literal])*
                $field:ident $(| $alias:ident)* : $ty:ty $(= $default:literal)?
            ),* $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug)]
        $vis struct $name {
            $($(#[doc = $field_doc])* pub $field: $ty,)*
        }

        const _: () = {
            #[allow(non_camel_case_types, clippy::enum_variant_names)]
            enum Index { $($field),* }

            const SPECS: &[$crate::schema::FieldSpec] = &[$($crate::schema::FieldSpec {
                key: $crate::schema::FieldSpec::key_of(stringify!($field)),
                aliases: &[$($crate::schema::FieldSpec::key_of(stringify!($alias))),*],
                default: $crate::config_struct!(@option $($default)?),
                doc: &[$($field_doc),*],
            }),*];

            const SHORTHAND: Option<&str> = $crate::config_struct!(@shorthand $($shorthand)?);

            impl $crate::schema::Decode for $name {
                fn decode(node: &$crate::schema::Node, cx: &mut $crate::schema::Cx) -> Option<Self> {
                    let fields = $crate::schema::Fields::begin(node, SPECS, SHORTHAND, cx)?;
                    $(let $field = fields.take::<$ty>(&SPECS[Index::$field as usize], cx);)*
                    let value = Self { $($field: $field?),* };
                    $(
                        let check: fn(&Self, &$crate::schema::Node, &mut $crate::schema::Cx) = $check;
                        check(&value, node, cx);
                    )?
                    Some(value)
                }

                fn dump(&self) -> $crate::schema::Json {
                    let mut map = $crate::schema::JsonMap::new();
                    $(map.insert(
                        SPECS[Index::$field as usize].key.to_owned(),
                        $crate::schema::Decode::dump(&self.$field),
                    );)*
                    $crate::schema::Json::Object(map)
                }

                fn describe() -> $crate::schema::TypeDoc {
                    $crate::schema::describe_struct(
                        concat!(module_path!(), "::", stringify!($name)),
                        &[$($doc),*],
                        SHORTHAND,
                        vec![$($crate::schema::describe_field::<$ty>(&SPECS[Index::$field as usize])),*],
                    )
                }
            }
        };
    };
    (@option) => { None };
    (@option $default:literal) => { Some($default) };
    (@shorthand) => { None };
    (@shorthand $key:ident) => { Some($crate::schema::FieldSpec::key_of(stringify!($key))) };
}

/// Declares a choice between words: enum, decoder, JSON dump, schema and reference in one.
///
/// ```text
/// config_enum! {
///     /// What is chosen.
///     pub enum Name {
///         /// Meaning.
///         Variant = "word" | "other spelling",
///     }
/// }
/// ```
#[macro_export]
macro_rules! config_enum {
    (
        $(#[doc = $doc:literal])*
        $vis:vis enum $name:ident {
            $(
                $(#[doc = $word_doc:literal])*
                $variant:ident = $word:literal $(| $alias:literal)*
            ),+ $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis enum $name {
            $($(#[doc = $word_doc])* $variant,)+
        }

        impl $name {
            /// Every choice, in the order of the declaration.
            #[allow(dead_code)]
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word in files.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }

        const _: () = {
            const WORDS: &[$crate::schema::WordDoc] = &[$($crate::schema::WordDoc {
                word: $word,
                aliases: &[$($alias),*],
                doc: &[$($word_doc),*],
            }),+];

            impl $crate::schema::Decode for $name {
                fn decode(node: &$crate::schema::Node, cx: &mut $crate::schema::Cx) -> Option<Self> {
                    let at = $crate::schema::decode_word(WORDS, node, cx)?;
                    $name::ALL.get(at).copied()
                }

                fn dump(&self) -> $crate::schema::Json {
                    $crate::schema::Json::from(self.as_str())
                }

                fn describe() -> $crate::schema::TypeDoc {
                    $crate::schema::describe_words(WORDS)
                }
            }
        };
    };
}
