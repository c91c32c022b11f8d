"""What hospitals call things: common clinical column names and code words in English, German, Italian, Dutch, Spanish, French.

Only for proposing a mapping, which a person then checks; nothing here decides how data are read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

CONCEPTS: dict[str, tuple[str, ...]] = {
    "sex": ("sex", "gender", "geschlecht", "sesso", "genere", "geslacht", "sexo", "genero", "sexe", "genre"),
    "age": ("age", "alter", "eta", "leeftijd", "edad", "lebensalter", "anni"),
    "birth": (
        "birth", "birthdate", "dob", "geburtsdatum", "geburt", "geburtstag", "nascita", "data nascita", "geboortedatum", "geboorte",
        "nacimiento", "naissance", "ddn",
    ),
    "diagnosis": ("diagnosis", "diagnose", "diagnosedatum", "diagnosi", "diagnostico", "diagnostic", "dx"),
    "entry": (
        "entry", "enrolment", "enrollment", "inclusion", "inclusie", "einschluss", "einschlussdatum", "aufnahme", "arruolamento",
        "ingresso", "inclusione", "visit", "visite", "visita", "bezoek", "baseline", "admission", "ricovero", "opname", "ingreso",
    ),
    "onset": ("onset", "esordio", "beginn", "debut", "inicio", "aanvang", "symptom onset", "site of onset", "erstsymptom"),
    "death": (
        "death", "died", "dead", "deceased", "status", "vital", "vitale", "statut", "estado vital",
        "vitalstatus", "vital status", "verstorben", "tod", "gestorben", "morto",
        "decesso", "deceduto", "decesso si no", "stato in vita", "overleden", "overlijden", "fallecido", "muerto", "exitus", "muerte",
        "deces", "decede", "mort", "event", "ereignis", "evento", "evenement", "gebeurtenis",
    ),
    "time": (
        "time", "survival", "os", "follow up", "followup", "fu", "futime", "survtime", "duration", "zeit", "ueberleben", "uberleben",
        "uberlebenszeit", "beobachtungszeit", "tempo", "sopravvivenza", "tijd", "overleving", "tiempo", "supervivencia", "temps",
        "survie", "suivi", "seguimiento", "months", "monate", "mesi", "maanden", "meses", "mois",
    ),
    "weight": ("weight", "wt", "gewicht", "peso", "poids", "koerpergewicht", "korpergewicht", "body weight"),
    "height": ("height", "ht", "groesse", "grosse", "koerpergroesse", "korpergrosse", "altezza", "statura", "lengte", "talla", "taille"),
    "bmi": ("bmi", "body mass index", "imc", "koerpermasseindex"),
    "weight loss": ("weight loss", "wt loss", "gewichtsverlust", "calo ponderale", "gewichtsverlies", "perdida peso", "perte poids"),
    "smoking": ("smoking", "smoker", "raucher", "rauchen", "fumo", "fumatore", "roken", "roker", "tabaco", "fumador", "tabac", "fumeur"),
    "diabetes": ("diabetes", "dm", "diabete", "zuckerkrankheit", "diabetico", "diabetisch"),
    "hypertension": ("hypertension", "htn", "hypertonie", "bluthochdruck", "ipertensione", "hypertensie", "hipertension", "hta"),
    "systolic": ("systolic", "sbp", "systolisch", "sistolica", "systolique", "rr syst", "pas"),
    "diastolic": ("diastolic", "dbp", "diastolisch", "diastolica", "diastolique", "rr diast", "pad"),
    "treatment": (
        "treatment", "arm", "therapy", "behandlung", "therapie", "trattamento", "terapia", "braccio", "behandeling", "tratamiento",
        "traitement", "rx", "group", "gruppe", "gruppo", "groep", "grupo", "groupe",
    ),
    "stage": ("stage", "stadium", "stadio", "estadio", "stade"),
    "ecog": ("ecog", "ph ecog", "performance status", "who ps", "ps"),
    "creatinine": ("creatinine", "crea", "kreatinin", "creatinina", "creatinin", "kreatinine"),
    "haemoglobin": ("haemoglobin", "hemoglobin", "hb", "hgb", "haemoglobin", "hamoglobin", "emoglobina", "hemoglobine", "hemoglobina"),
    "fvc": ("fvc", "cvf", "vital capacity", "vitalkapazitat", "capacita vitale"),
}  # fmt: skip
"""Concept -> names, folded (`fold`); several words must all be there."""

UNIT_WORDS: dict[str, str] = {
    "years": "a", "year": "a", "yrs": "a", "jahre": "a", "anni": "a", "jaar": "a", "anos": "a", "ans": "a", "yr": "a",
    "months": "mo", "month": "mo", "mo": "mo", "monate": "mo", "mesi": "mo", "maanden": "mo", "meses": "mo", "mois": "mo", "mths": "mo",
    "weeks": "wk", "wochen": "wk", "settimane": "wk", "weken": "wk", "semanas": "wk", "semaines": "wk", "wk": "wk",
    "days": "d", "day": "d", "tage": "d", "giorni": "d", "dagen": "d", "dias": "d", "jours": "d",
    "kg": "kg", "lb": "[lb_av]", "lbs": "[lb_av]", "pounds": "[lb_av]", "g": "g",
    "cm": "cm", "mm": "mm", "m": "m", "inch": "[in_i]", "inches": "[in_i]", "in": "[in_i]",
    "mmhg": "mm[Hg]", "kpa": "kPa", "celsius": "Cel", "fahrenheit": "[degF]",
}  # fmt: skip
"""A word of a column's name -> the unit that it names."""

CODE_WORDS: dict[str, tuple[str, ...]] = {
    "male": ("male", "m", "man", "men", "mann", "mannlich", "maennlich", "maschio", "uomo", "maschile", "mannelijk", "hombre", "varon",
             "masculino", "homme", "masculin", "h"),
    "female": ("female", "f", "w", "woman", "women", "frau", "weiblich", "femmina", "donna", "femminile", "vrouw", "vrouwelijk", "v",
               "mujer", "femenino", "femme", "feminin"),
    "yes": ("yes", "y", "true", "t", "1", "ja", "j", "si", "s", "vero", "oui", "o", "wahr", "waar", "vrai", "verdadero", "positive", "pos"),
    "no": ("no", "n", "false", "0", "nein", "nee", "non", "falso", "falsch", "onwaar", "faux", "negative", "neg", "none"),
    "dead": ("dead", "died", "deceased", "death", "tot", "verstorben", "gestorben", "morto", "deceduto", "overleden", "fallecido",
             "muerto", "exitus", "decede", "mort", "event"),
    "alive": ("alive", "living", "lebend", "lebt", "vivo", "vivente", "in leven", "levend", "vivant", "censored", "zensiert"),
}  # fmt: skip
"""Meaning -> code words, folded. A single letter may mean several things; a proposal then asks to check it."""


def fold(text: str) -> str:
    """Lower case without accents, words apart: ``Überleben_(Monate)`` and ``vitalStatus`` are ``uberleben monate`` and
    ``vital status``."""
    spaced = re.sub(r"(?<=[a-zà-ÿ])(?=[A-ZÀ-Ý])|(?<=[A-Za-z])(?=\d)", " ", text.replace("ß", "ss"))
    plain = unicodedata.normalize("NFKD", spaced)
    return " ".join(re.findall(r"[a-z]+|\d+", "".join(c for c in plain if not unicodedata.combining(c)).lower()))


def concepts(names: Iterable[str]) -> set[str]:
    """The clinical concepts that names speak of; *weight loss* does not also speak of *weight*."""
    found: set[str] = set()
    for name in names:
        words = set(fold(name).split())
        hits = [
            (concept, parts) for concept, known in CONCEPTS.items() for k in known if (parts := set(k.split())) <= words
        ]
        found |= {concept for concept, parts in hits if not any(parts < other for _, other in hits)}
    return found


def unit_of(name: str) -> str | None:
    """The unit that a column's name names: ``OS (months)``, ``WT_LB``."""
    return next((UNIT_WORDS[word] for word in reversed(fold(name).split()) if word in UNIT_WORDS), None)


def meanings(code: str) -> set[str]:
    """What a code word may mean: ``ja`` is yes, ``M`` is male."""
    word = fold(code)
    return {meaning for meaning, words in CODE_WORDS.items() if word in words}
