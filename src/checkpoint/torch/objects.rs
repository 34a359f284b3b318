//! The objects of torch.save's pickles, and what is "called" in them: storages, tensors over them, dictionaries. Everything else that a pickle
//! can name is not in the list of [`Global`].

use crate::checkpoint::Dtype;

/// The number of an object in its pickle.
pub(super) type Ref = u32;

/// Dimensions of a tensor, at most.
const MAX_DIMS: usize = 8;

/// An object of a pickle. Texts lie in the pickle.
pub(super) enum Object<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// A float, whose value nothing needs.
    Float,
    Text(&'a str),
    Tuple(Vec<Ref>),
    List(Vec<Ref>),
    Dict(Vec<(Ref, Ref)>),
    Global(Global),
    Storage(Storage<'a>),
    Tensor(View),
}

/// The numbers of a storage.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Numbers {
    /// As in `torch.FloatStorage`.
    pub name: &'static str,
    /// Bytes of a number.
    pub bytes: usize,
    /// The type of weights, if they can be of this type.
    pub dtype: Option<Dtype>,
}

/// The types of `torch.*Storage`.
const NUMBERS: [Numbers; 10] = [
    Numbers { name: "Float", bytes: 4, dtype: Some(Dtype::F32) },
    Numbers { name: "Half", bytes: 2, dtype: Some(Dtype::F16) },
    Numbers { name: "BFloat16", bytes: 2, dtype: Some(Dtype::Bf16) },
    Numbers { name: "Double", bytes: 8, dtype: None },
    Numbers { name: "Long", bytes: 8, dtype: None },
    Numbers { name: "Int", bytes: 4, dtype: None },
    Numbers { name: "Short", bytes: 2, dtype: None },
    Numbers { name: "Char", bytes: 1, dtype: None },
    Numbers { name: "Byte", bytes: 1, dtype: None },
    Numbers { name: "Bool", bytes: 1, dtype: None },
];

/// A stretch of numbers, which lies outside of the pickle.
#[derive(Clone, Copy)]
pub(super) struct Storage<'a> {
    /// Its name in the file.
    pub key: &'a str,
    /// The type of its numbers.
    pub numbers: Numbers,
    /// How many there are.
    pub len: u64,
}

/// A tensor: a view of a storage.
pub(super) struct View {
    /// The storage.
    pub storage: Ref,
    /// Its first number in the storage.
    pub offset: u64,
    /// The slowest dimension first.
    pub shape: Vec<usize>,
    /// Numbers from one index of a dimension to the next.
    pub strides: Vec<u64>,
}

impl View {
    /// Numbers of the tensor; `None` if they are more than memory can have.
    pub fn len(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))
    }

    /// True if the numbers lie one after the other in the order of their indices.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1u64;
        self.shape.iter().zip(&self.strides).rev().all(|(&dim, &stride)| {
            let fits = dim == 1 || stride == expected;
            expected = expected.saturating_mul(dim as u64);
            fits
        })
    }
}

/// What a pickle may name.
#[derive(Clone, Copy)]
pub(super) enum Global {
    OrderedDict,
    Size,
    RebuildTensor,
    RebuildParameter,
    Storage(Numbers),
}

impl Global {
    /// The one of this name; `None` for all that is not in the list.
    pub fn find(module: &str, name: &str) -> Option<Global> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Global::OrderedDict),
            ("torch", "Size") => Some(Global::Size),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Global::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Global::RebuildParameter),
            ("torch", storage) => {
                let of = storage.strip_suffix("Storage")?;
                NUMBERS.iter().find(|numbers| numbers.name == of).copied().map(Global::Storage)
            }
            _ => None,
        }
    }
}

impl<'a> Object<'a> {
    /// What it is, as messages say it.
    pub fn kind(&self) -> &'static str {
        match self {
            Object::None => "None",
            Object::Bool(_) => "a bool",
            Object::Int(_) => "an integer",
            Object::Float => "a float",
            Object::Text(_) => "a text",
            Object::Tuple(_) => "a tuple",
            Object::List(_) => "a list",
            Object::Dict(_) => "a dictionary",
            Object::Global(_) => "a class or function",
            Object::Storage(_) => "a storage",
            Object::Tensor(_) => "a tensor",
        }
    }
}

/// The result of a call.
pub(super) enum Called<'a> {
    New(Object<'a>),
    Known(Ref),
}

/// What calling `global` with these arguments gives.
///
/// # Errors
/// What is wrong with the arguments.
pub(super) fn call<'a>(global: Global, arguments: &[Ref], objects: &[Object<'a>]) -> Result<Called<'a>, String> {
    let of = |at: Ref| &objects[at as usize];
    match global {
        Global::OrderedDict if arguments.is_empty() => Ok(Called::New(Object::Dict(Vec::new()))),
        Global::Size => match *arguments {
            [size] if matches!(of(size), Object::Tuple(_)) => Ok(Called::Known(size)),
            _ => Err("torch.Size is called with something other than a tuple".to_owned()),
        },
        // Besides the tensor: whether it is trained, and hooks that run then.
        Global::RebuildParameter => match *arguments {
            [tensor, _, _] if matches!(of(tensor), Object::Tensor(_)) => Ok(Called::Known(tensor)),
            _ => Err("a parameter is made of something other than a tensor".to_owned()),
        },
        Global::RebuildTensor => tensor(arguments, objects).map(|view| Called::New(Object::Tensor(view))),
        Global::OrderedDict => Err(format!("an OrderedDict is made of {} arguments", arguments.len())),
        Global::Storage(_) => Err("a storage is made and not named".to_owned()),
    }
}

/// The tensor of `_rebuild_tensor_v2(storage, offset, shape, strides, ...)`.
fn tensor(arguments: &[Ref], objects: &[Object<'_>]) -> Result<View, String> {
    let of = |at: Ref| &objects[at as usize];
    let [storage, offset, shape, strides, ..] = *arguments else {
        return Err(format!("a tensor is made of {} arguments", arguments.len()));
    };
    let (Object::Storage(_), Object::Tuple(shape), Object::Tuple(strides)) = (of(storage), of(shape), of(strides))
    else {
        return Err(format!(
            "a tensor is made of {}, {} and {}",
            of(storage).kind(),
            of(shape).kind(),
            of(strides).kind()
        ));
    };
    if shape.len() != strides.len() || shape.len() > MAX_DIMS {
        return Err(format!(
            "a tensor has {} dimensions and {} strides; at most {MAX_DIMS} are read",
            shape.len(),
            strides.len()
        ));
    }
    let number = |&at: &Ref| match of(at) {
        Object::Int(n) => u64::try_from(*n).map_err(|_| format!("a tensor has the dimension, stride or offset {n}")),
        other => Err(format!("a tensor has {} for a dimension, stride or offset", other.kind())),
    };
    let wide: Vec<u64> = shape.iter().map(number).collect::<Result<_, _>>()?;
    let too_large = |_| format!("a tensor has the dimensions {wide:?}");
    let shape = wide.iter().map(|&dim| usize::try_from(dim)).collect::<Result<_, _>>().map_err(too_large)?;
    Ok(View {
        storage,
        offset: number(&offset)?,
        shape,
        strides: strides.iter().map(number).collect::<Result<_, _>>()?,
    })
}

/// The storage of a persistent id, `("storage", torch.FloatStorage, "0", "cpu", 42)`: before PyTorch 1.6 with a sixth entry, None unless it is a
/// part of another storage.
///
/// # Errors
/// What is wrong with the id.
pub(super) fn storage<'a>(id: Ref, objects: &[Object<'a>]) -> Result<Storage<'a>, String> {
    let of = |at: Ref| &objects[at as usize];
    let Object::Tuple(parts) = of(id) else { return Err(format!("{} is the id of a storage", of(id).kind())) };
    let parts: Vec<&Object<'_>> = parts.iter().take(7).map(|&at| of(at)).collect();
    match parts[..] {
        [Object::Text("storage"), Object::Global(Global::Storage(numbers)), Object::Text(key), _, Object::Int(len)]
        | [
            Object::Text("storage"),
            Object::Global(Global::Storage(numbers)),
            Object::Text(key),
            _,
            Object::Int(len),
            Object::None,
        ] => {
            let len = u64::try_from(*len).map_err(|_| format!("a storage has {len} numbers"))?;
            Ok(Storage { key, numbers: *numbers, len })
        }
        _ => {
            let kinds: Vec<_> = parts.iter().map(|part| part.kind()).collect();
            Err(format!("the id of a storage consists of {}", kinds.join(", ")))
        }
    }
}
